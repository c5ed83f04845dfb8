// Alerts of all runs, the worst first.
import {el, t} from "./dom.js";
import {store, subscribe} from "./store.js";

export const alertCard = (alert, named = true) => el(`article.alert.${alert.severity}`, {},
  el("p.alert-head", {}, el("span.severity", {}, t(alert.severity)), " ", named ? el("a", {href: `#/run/${encodeURIComponent(alert.run)}`}, alert.run) : null, " ", el("strong", {}, t(alert.cause.replaceAll("_", " ")))),
  el("p", {}, t(alert.evidence)), alert.remedy ? el("p.dim", {}, alert.remedy) : null);

export const alertsView = (main) => {
  const box = el("div.alerts");
  const show = () => box.replaceChildren(...(store.alerts.length ? store.alerts.slice(0, 200).map((alert) => alertCard(alert)) : [el("p.dim", {}, t("Nothing is wrong."))]));
  main.replaceChildren(el("h1", {}, t("Alerts")), box);
  show();
  return subscribe((change) => { if (change.alerts || change.all) show(); });
};

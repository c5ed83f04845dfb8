"""Healthy controls by name: the settings as they are, variations that look odd but are right, and settings that are odd by themselves."""

from __future__ import annotations

from bench.ward.controls import data, loop, net
from bench.ward.controls.control import Control
from bench.ward.loop import Rule, Schedule
from bench.ward.settings import CNN, CNN_BN, COSINE, MOVES, SHIFT, Setting

CONTROLS: dict[str, Control] = {
    control.name: control for control in (Control("plain", lambda patient: patient), *loop.CONTROLS, *data.CONTROLS, *net.CONTROLS)
}

ODD_SETTINGS = {
    "digits-tiny": Setting("digits", CNN, Rule("adamw", 3e-3, weight_decay=0.1), COSINE, batch=32, size=10, augment=SHIFT, steps=400),
    "shapes-hundred": Setting("shapes100", CNN_BN, Rule("adam", 5e-3), COSINE, steps=500, augment=MOVES),
    "digits-easy": Setting("digits", CNN_BN, Rule("adamw", 5e-3, weight_decay=0.01), Schedule("warmup"), steps=600, augment=SHIFT),
    "gratings-easy": Setting("gratings", CNN_BN, Rule("adam", 3e-3), COSINE, steps=400, augment=SHIFT),
}

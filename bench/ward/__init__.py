"""The ward: trainings with one known fault, their healthy twins and odd but right controls, on which the doctor is judged."""

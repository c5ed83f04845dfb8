"""stub"""
from types import SimpleNamespace
def advice(net, data):
    return SimpleNamespace(probe="head", trainable="head", reasons=())

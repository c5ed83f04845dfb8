"""What a network is made of: operations, memory and receptive fields, layer by layer."""

"""What loaders are made of: decoded pixels (`store`), the choice of a batch (`samplers`), `augmentation`."""

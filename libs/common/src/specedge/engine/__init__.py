"""What computes: the engine ports, emulated devices, and transformers models. Synchronous."""

"""The reference sampler, in numpy: rules and counter-based noise. Every device equals it."""

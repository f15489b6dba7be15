"""Messages between services: the Link port, the in-process link, and NATS."""

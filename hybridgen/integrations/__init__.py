"""Other libraries at work inside our models. Each is imported only when it is asked for."""

"""What ``--mode export`` copies beside a model: it runs without this suite, which imports nothing of it."""

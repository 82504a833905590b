"""What losses are made of: functions on tensors that need no class."""

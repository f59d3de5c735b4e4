"""What runs in a worker: receivers of signals, admission of tasks, heartbeats, reports."""

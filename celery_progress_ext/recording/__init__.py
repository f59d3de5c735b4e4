"""Who counts: what a task reports is committed to the rows and then broadcast."""

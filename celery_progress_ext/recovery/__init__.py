"""What is done when something was lost: the reconciler, its queries, and the audit that nobody has to ask for."""

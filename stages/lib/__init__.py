"""What the stages share, in rooms; docs/architecture.md says which may import which."""

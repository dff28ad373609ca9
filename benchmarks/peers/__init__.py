"""What this project's training is measured against, each in a process of its own, and what all of them share."""

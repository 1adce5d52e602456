"""What people read: the pages of a run and of an evaluation, documents of comparisons, and what they share."""

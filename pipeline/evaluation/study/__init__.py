"""What a study of ways to distil says: its figures, its file, its picture; the bench makes them, the report tells."""

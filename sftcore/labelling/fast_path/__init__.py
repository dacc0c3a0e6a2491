"""From conversations of one shape, without rendering them, to rendered conversations, or to None."""

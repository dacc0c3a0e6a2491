"""From a chat template and messages to text in a Jinja sandbox, with the message and field of every character."""

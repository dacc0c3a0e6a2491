"""From files and hub datasets to conversations, each with file, line and content key; knows no template or label."""

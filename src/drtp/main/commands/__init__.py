"""The commands of `drtp` and those that both programs share; each file is imported when its command is called."""

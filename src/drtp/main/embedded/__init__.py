"""Everything on one machine: the supervisor behind `drtp up`, its parts and what it prints."""

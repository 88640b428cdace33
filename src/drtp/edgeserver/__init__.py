"""The door for edges: enrolment, snapshots down, reports up."""

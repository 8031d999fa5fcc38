package meta

// Document is how a mirror's spec is stored.
var Document = document

// Around narrows down where in the log a time is.
var Around = around

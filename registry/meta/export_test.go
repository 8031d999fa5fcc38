package meta

// Document is how a mirror's spec is stored.
var Document = document

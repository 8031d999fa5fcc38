package domain

// Version is the version of this build, stamped by the linker.
var Version = "dev"

package main

import "syscall"

// attributes put a program into a process group of its own. If this program is killed, so that it can stop nothing any
// more, the kernel ends the others.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

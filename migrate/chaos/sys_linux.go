package main

import "syscall"

// procAttr has the system end a child with its parent, even one that is stopped and does not read its input.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

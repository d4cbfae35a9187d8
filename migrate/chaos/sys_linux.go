package main

import "syscall"

// procAttr makes the system kill a child with its parent, even if the child is stopped and does not read its input.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

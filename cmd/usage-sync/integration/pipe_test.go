package integration_test

import (
	"syscall"
	"unsafe"
)

// pending returns how many bytes wait in a pipe.
func pending(fd uintptr) (n int, err error) {
	const fionread = 0x541B
	var waiting int32
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, fionread, uintptr(unsafe.Pointer(&waiting))); errno != 0 {
		return 0, errno
	}
	return int(waiting), nil
}

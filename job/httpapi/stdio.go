package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// ServeStdio answers the one request that comes on in, as Serve does, and returns when the answer has been
// written to out. Where systemd has started us they are the connection itself (StandardInput=socket,
// systemd.exec(5)).
func (a *API) ServeStdio(ctx context.Context, in io.Reader, out io.Writer) error {
	conn, finish, err := connection(in, out)
	if err != nil {
		return err
	}
	return errors.Join(a.Serve(ctx, conn), finish())
}

// connection makes a connection of two streams. Finish waits until the answer has been written.
func connection(in io.Reader, out io.Writer) (conn net.Conn, finish func() error, err error) {
	stdin, inIsFile := in.(*os.File)
	stdout, outIsFile := out.(*os.File)
	if inIsFile && outIsFile && sameSocket(stdin, stdout) {
		conn, err = net.FileConn(stdin)
		return conn, func() error { return nil }, err
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	near, err := socket(pair[0])
	if err != nil {
		return nil, nil, err
	}
	far, err := socket(pair[1])
	if err != nil {
		return nil, nil, err
	}
	go func() {
		_, _ = io.Copy(far, in)
		_ = far.CloseWrite()
	}()
	written := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, untilReset{far})
		written <- err
	}()
	return near, func() error {
		if err := <-written; err != nil {
			return fmt.Errorf("standard output: %w", err)
		}
		return nil
	}, nil
}

// untilReset reads until the other end is closed. Where that had not read all of a request, Linux says that the
// connection was reset, after what it has answered.
type untilReset struct{ io.Reader }

// Read implements io.Reader.
func (r untilReset) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if errors.Is(err, syscall.ECONNRESET) {
		err = io.EOF
	}
	return n, err
}

func sameSocket(a, b *os.File) bool {
	infoA, errA := a.Stat()
	infoB, errB := b.Stat()
	return errA == nil && errB == nil && infoA.Mode()&os.ModeSocket != 0 && os.SameFile(infoA, infoB)
}

func socket(fd int) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(fd), "socketpair")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

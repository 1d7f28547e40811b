package store

/*
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

typedef struct sqlite3 sqlite3;
int sqlite3_db_config(sqlite3 *, int, ...);
long long sqlite3_hard_heap_limit64(long long);

static int switch_option(sqlite3 *db, int option, int on) { return sqlite3_db_config(db, option, on, NULL); }

static struct {
	int fd, code;
	char line[1024];
	size_t length;
} last_words;

static void end_by_cut_file(int signal) {
	if (write(last_words.fd, last_words.line, last_words.length) < 0) {}
	_exit(last_words.code);
}

// Go's own handler knows nothing of a fault in C, and ends the process with its stack and 2. This one keeps to
// what it asks of others: SA_ONSTACK (https://pkg.go.dev/os/signal#hdr-Go_programs_that_use_cgo_or_SWIG).
static int on_cut_file(int fd, const char *line, size_t length, int code) {
	struct sigaction action = {.sa_handler = end_by_cut_file, .sa_flags = SA_ONSTACK};
	if (length > sizeof last_words.line) length = sizeof last_words.line;
	for (size_t i = 0; i < length; i++) last_words.line[i] = line[i];
	last_words.fd = fd;
	last_words.code = code;
	last_words.length = length;
	sigfillset(&action.sa_mask);
	return sigaction(SIGBUS, &action, NULL);
}
*/
import "C"

import (
	"fmt"
	"os"
	"reflect"
	"unsafe"

	"github.com/mattn/go-sqlite3"
)

const (
	// longestValue bounds a text, a blob and a row, in bytes: the largest of ours are a few kilobytes.
	longestValue = 16 << 20
	// mostMemory bounds what SQLite allocates in this process, in bytes. A pass needs a tenth of it.
	mostMemory = 256 << 20
)

// Options of sqlite3_db_config (https://www.sqlite.org/c3ref/c_dbconfig_defensive.html, read in November 2026).
// The driver knows no way to set them.
const (
	configDefensive     = 1010
	configView          = 1015
	configTrustedSchema = 1017
)

// guard keeps a connection from being abused by what is in a database: whoever controls the container can write
// views, triggers and default values that run in this process. Functions with side effects are not called for a
// schema, views of the file are not read, and neither a value nor all of them together take more than a bounded
// part of the memory.
func guard(conn *sqlite3.SQLiteConn) error {
	db := (*C.sqlite3)(reflect.ValueOf(conn).Elem().FieldByName("db").UnsafePointer())
	for option, on := range map[C.int]C.int{configDefensive: 1, configView: 0, configTrustedSchema: 0} {
		if code := C.switch_option(db, option, on); code != 0 {
			return fmt.Errorf("SQLite option %d: %w", option, sqlite3.ErrNo(code))
		}
	}
	C.sqlite3_hard_heap_limit64(mostMemory)
	conn.SetLimit(sqlite3.SQLITE_LIMIT_LENGTH, longestValue)
	return nil
}

// OnCut makes the signal SIGBUS end the process with a line and a code. SQLite maps the index of a write-ahead
// log into memory, and to read beyond the end of a file that somebody truncates meanwhile is that signal
// (mmap(2)). There is no way back from it: the transaction in hand is rolled back as after any other death.
func OnCut(to *os.File, line string, code int) error {
	text := []byte(line)
	if failed, err := C.on_cut_file(C.int(to.Fd()), (*C.char)(unsafe.Pointer(unsafe.SliceData(text))),
		C.size_t(len(text)),
		C.int(code)); failed != 0 {
		return fmt.Errorf("SIGBUS: %w", err)
	}
	return nil
}

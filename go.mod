module usage-sync

go 1.26

require (
	github.com/google/uuid v1.6.0 // indirect
	github.com/mattn/go-sqlite3 v1.14.53 // indirect
	pgregory.net/rapid v1.3.0 // indirect
)

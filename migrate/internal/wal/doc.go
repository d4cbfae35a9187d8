// Package wal stores on disk what a host must not forget about a service: the Saves of package core, and snapshots of the
// service's state, so that the log stays bounded.
//
// A [Dir] is the directory of a host. A [Store] is the part of one service in it. The documentation of package migrate
// describes the format of the files. They can be read safely after a crash, because:
//
//   - A file gets its name by a rename after a sync, so that an incomplete file has no valid name.
//   - A log only grows, by one write at a time, and each write is synced before the next. So only the last frame can be
//     incomplete; a bad frame before a good one means damage.
//   - After an error the store writes nothing more, since the state of the disk is unknown. Open rewrites the last log:
//     the data that it reads back may never have reached the disk.
//   - A service's store opens only when the previous store of the service has finished its work.
//   - Older files are removed only when all newer files that replace them are in place.
package wal

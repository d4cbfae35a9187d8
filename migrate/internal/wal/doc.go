// Package wal keeps on disk what a host must not forget of a service: what package core asks for with its Saves, and a
// copy of the service's state, so that the log does not grow for ever.
//
// A [Dir] is the directory of a host, and a [Store] that of one service in it. The documentation of package migrate says
// what is in the files. What makes them safe to read again:
//
//   - A file gets its name by a rename, after it was forced to the disk, so that one that is not whole has no name.
//   - A log only grows, by one write at a time, which is forced to the disk before the next: only the last one can be
//     unfinished, and a bad frame before a good one is damage.
//   - After an error nothing is written any more: what an operating system does after one is not known. The last log is
//     written anew when the store is opened, since what is read back may never have reached the disk.
//   - A service's store is opened when nothing is under way any more to the one that was open before.
//   - The files of an earlier beginning are removed only when all those of a later one are in place.
package wal

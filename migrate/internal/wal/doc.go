// Package wal keeps on disk what a host must not forget of a service: what package core asks for with its Saves, and a
// copy of the service's state, so that the log does not grow for ever.
//
// A [Dir] is the directory of a host, and a [Store] that of one service in it. Its files are numbered from 1, in 16
// hexadecimal digits:
//
//	n.log   "roam-wl1", a random salt (8 bytes), then frames
//	n.snap  "roam-ws1", a copy of the state, the SHA-256 of all that (32 bytes)
//	*.tmp   what was not finished; it is removed
//
// A frame is its number, counted from 0, the length of its body, and a CRC-32C of the salt, these two and the body (4
// bytes each, little-endian), then the body. Numbers in bodies are unsigned varints, byte strings their length and
// themselves. The body of frame 0 is the service (bytes), the host's ID (bytes), its incarnation, n, and the whole state
// when the file was begun. All other bodies are changes of the state, one or more:
//
//	flags (1: there is a copy, 2: the active host may count on it), loss, epoch, number of the invitation,
//	loss and epoch of the term that may begin with an empty copy, gen of the resolver,
//	index of the last entry known to be committed, and of the last known to be the active host's,
//	index and epoch of the entry after which entries are replaced; in frame 0, of the one after which the log begins,
//	number of entries, entries (as between hosts)
//
// n.log begins where n-1.log ends, or anew. n.snap is the copy that belongs to the beginning of n.log; one of the empty
// state is not written. The store begins with the highest n for which there are both, and goes on through all higher logs;
// what is older is removed.
//
// A frame is written only when those before it are known to be on the disk. So a crash leaves at most the last frame of
// the last log unfinished, and nobody was told of it: it is cut off. Anything else that is not as it was written is
// damage, and the store does not open. (The last frame can't be told from an unfinished one when it is damaged: what it
// held then counts as never written, though it may have been acknowledged. That other hosts hold it, too, is what the
// service then lives by.)
package wal

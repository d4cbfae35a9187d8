package transport

const (
	// manyFiles is the number of open files where the system has no limit for each process, or does not tell it.
	manyFiles = 1 << 20

	// Of the files that a process may have open, at least minSpareFiles and 1 / spareFiles are not for accepted connections, but
	// for connections to others and files, such as the one of a resolver.
	minSpareFiles = 32
	spareFiles    = 8
)

// places returns how many connections there can be before inbound ones are refused: at most, or fewer if the process may not
// have so many files open. The limit may change while the process runs.
func places(most int, files uint64) int {
	spare := max(files/spareFiles, minSpareFiles)
	if files <= spare {
		return 1
	}
	return int(min(files-spare, uint64(most)))
}

package migrate

import (
	"fmt"
	"os"
	"testing"

	"github.com/roam-go/roam/migrate/internal/leak"
)

// TestMain fails the package when a test leaves a goroutine behind. It is also the main function of the processes that tests
// start.
func TestMain(m *testing.M) {
	if id := os.Getenv("ROAM_COPY_HOST"); id != "" {
		if err := copyHost(id, os.Getenv("ROAM_COPY_DNS")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if role := os.Getenv("ROAM_BENCH_ROLE"); role != "" {
		if err := benchRole(role); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	leak.Main(m)
}

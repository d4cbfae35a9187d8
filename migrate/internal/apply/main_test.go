package apply

import (
	"testing"

	"github.com/roam-go/roam/migrate/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

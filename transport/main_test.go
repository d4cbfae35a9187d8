package transport

import (
	"testing"

	"github.com/roam-go/roam/transport/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

package migrate_test

import (
	"fmt"
	"io"
	"strconv"
	"sync/atomic"

	"github.com/roam-go/roam/migrate"
)

// visits counts its commands, and may be asked how many there were while it counts.
type visits struct{ n atomic.Int64 }

func (v *visits) Apply(migrate.Command) ([]byte, error) {
	return strconv.AppendInt(nil, v.n.Add(1), 10), nil
}

func (v *visits) Snapshot() (migrate.Snapshot, error) { return number(v.n.Load()), nil }

func (v *visits) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	v.n.Store(n)
	return err
}

// Query reads an atomic, so that it may run beside Apply.
func (v *visits) Query(migrate.Query) ([]byte, error) {
	return strconv.AppendInt(nil, v.n.Load(), 10), nil
}

// ConcurrentQueries says so.
func (v *visits) ConcurrentQueries() {}

// number is its own snapshot.
type number int64

func (n number) WriteTo(w io.Writer) (int64, error) {
	c, err := fmt.Fprint(w, int64(n))
	return int64(c), err
}

func (n number) Release() {}

func ExampleConcurrentQuerier() {
	var service migrate.Migratable = new(visits)
	service.Apply(migrate.Command{})
	if q, ok := service.(migrate.ConcurrentQuerier); ok {
		n, err := q.Query(migrate.Query{})
		fmt.Printf("%s %v\n", n, err)
	}
	// Output: 1 <nil>
}

// publicVisits tells anyone how many visits there were, even programs that have opened no session.
type publicVisits struct{ visits }

func (*publicVisits) PublicQueries() {}

func ExamplePublicQuerier() {
	var service migrate.Migratable = new(publicVisits)
	service.Apply(migrate.Command{Session: 1})
	if q, ok := service.(migrate.PublicQuerier); ok {
		n, err := q.Query(migrate.Query{Session: 0}) // no session
		fmt.Printf("%s %v\n", n, err)
	}
	// Output: 1 <nil>
}

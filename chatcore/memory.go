package chatcore

// memory is a map of at most limit entries; it forgets the oldest. The zero value with a limit is ready for use.
type memory[K comparable, V any] struct {
	limit int
	m     map[K]V
	order []K // a ring once it is full; next is the place of the oldest
	next  int
}

func (m *memory[K, V]) get(k K) (V, bool) {
	v, ok := m.m[k]
	return v, ok
}

// put sets the value of k. Setting it again does not make k younger.
func (m *memory[K, V]) put(k K, v V) {
	if m.m == nil {
		m.m = make(map[K]V)
	}
	if _, ok := m.m[k]; !ok {
		if len(m.order) < m.limit {
			m.order = append(m.order, k)
		} else {
			delete(m.m, m.order[m.next])
			m.order[m.next] = k
			m.next = (m.next + 1) % m.limit
		}
	}
	m.m[k] = v
}

// drop forgets k. Its place is used again only in its turn.
func (m *memory[K, V]) drop(k K) { delete(m.m, k) }

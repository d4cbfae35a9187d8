package chatcore

// fifoCache is a map of at most limit entries that evicts the oldest entry first. The zero value with a limit is ready to
// use.
type fifoCache[K comparable, V any] struct {
	limit int
	m     map[K]V
	order []K // keys by age; once full, a ring whose oldest key is at next
	next  int
}

func (m *fifoCache[K, V]) get(k K) (V, bool) {
	v, ok := m.m[k]
	return v, ok
}

// put sets the value of k. Updating an existing key does not change its age.
func (m *fifoCache[K, V]) put(k K, v V) {
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

// remove deletes k. Its slot in the ring is reused only when it becomes the oldest.
func (m *fifoCache[K, V]) remove(k K) { delete(m.m, k) }

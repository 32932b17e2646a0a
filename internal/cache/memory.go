package cache

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// maxMemory bounds what a Memory holds, in bytes of names and values.
const maxMemory = 16 << 20

// Memory is a Store of this process. It is never on disk, and bounded: when it is full, whatever was written first goes
// first.
type Memory struct {
	now func() time.Time
	max int

	mu    sync.Mutex
	of    map[string]*list.Element
	order list.List // of *held, the first written in front
	size  int
}

type held struct {
	name  string
	value []byte
	until time.Time
}

func (h *held) size() int { return len(h.name) + len(h.value) }

// NewMemory returns an empty Memory.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, max: maxMemory, of: map[string]*list.Element{}}
}

// Read implements Store, and so do the others.
func (m *Memory) Read(_ context.Context, names ...string) ([][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([][]byte, len(names))
	for i, name := range names {
		out[i] = m.read(name)
	}
	return out, nil
}

func (m *Memory) Write(_ context.Context, name string, value []byte, life time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.write(name, value, life)
	return nil
}

func (m *Memory) Settle(_ context.Context, name string, value []byte, life time.Duration) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if there := m.read(name); there != nil {
		return there, nil
	}
	m.write(name, value, life)
	return value, nil
}

func (m *Memory) Remove(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(m.of[name])
	return nil
}

func (m *Memory) read(name string) []byte {
	e := m.of[name]
	if e == nil {
		return nil
	}
	h := e.Value.(*held)
	if !m.now().Before(h.until) {
		m.drop(e)
		return nil
	}
	return h.value
}

func (m *Memory) write(name string, value []byte, life time.Duration) {
	m.drop(m.of[name])
	h := &held{name, value, m.now().Add(life)}
	if h.size() > m.max {
		return
	}
	m.of[name] = m.order.PushBack(h)
	for m.size += h.size(); m.size > m.max; {
		m.drop(m.order.Front())
	}
}

func (m *Memory) drop(e *list.Element) {
	if e == nil {
		return
	}
	h := e.Value.(*held)
	m.order.Remove(e)
	delete(m.of, h.name)
	m.size -= h.size()
}

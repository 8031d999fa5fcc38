package meta

import "errors"

// Lease says who does what only one replica may do at a time.
type Lease struct {
	// Holder is empty if the lease was given back, or nobody ever had it.
	Holder string
	// Beat grows with each renewal and each change of the holder.
	Beat int64
}

// Lease returns a lease; the zero Lease if nobody ever had it.
func (r *Reader) Lease(name string) (lease Lease, err error) {
	err = r.one(`SELECT holder, beat FROM leases WHERE name = $1`, []any{name}, func(row scanner) error {
		return row.Scan(&lease.Holder, &lease.Beat)
	})
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return lease, err
}

// TakeLease gives a lease to a holder if its beat is still the one that was seen, and reports whether it was. The beat is
// one more then.
func (tx *Tx) TakeLease(name, holder string, seen int64) (bool, error) {
	if seen == 0 {
		n, err := tx.exec(`INSERT INTO leases (name, holder, beat) VALUES ($1, $2, 1) ON CONFLICT (name) DO NOTHING`, name, holder)
		return n == 1, err
	}
	n, err := tx.exec(`UPDATE leases SET holder = $2, beat = beat + 1 WHERE name = $1 AND beat = $3`, name, holder, seen)
	return n == 1, err
}

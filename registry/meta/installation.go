package meta

import "time"

// Installation is what this registry is, once for all.
type Installation struct {
	// LogOrigin names the audit log; random, so that two logs never have one name.
	LogOrigin string
	// ClusterUID is the UID of the kube-system namespace of the cluster whose operator manages the registry, or empty.
	ClusterUID string
	// Synced is true once an operator has said that all of its objects are here.
	Synced bool
	// Adopting is true between adopt-cluster and the first sync of the new cluster's operator.
	Adopting bool
}

const installationQuery = `SELECT log_origin, cluster_uid, synced, adopting FROM installation WHERE id = 1`

func (r *Reader) installation(query string) (i Installation, err error) {
	err = r.one(query, nil, func(row scanner) error {
		return row.Scan(&i.LogOrigin, &i.ClusterUID, &i.Synced, &i.Adopting)
	})
	return i, err
}

// Installation reads the installation's row.
func (r *Reader) Installation() (Installation, error) { return r.installation(installationQuery) }

// Installation is Reader.Installation for the transactions of an operator: they come one after the other, also those
// about different organizations, or about all.
func (tx *Tx) Installation() (Installation, error) {
	return tx.installation(installationQuery + tx.forUpdate())
}

// InitInstallation makes the installation's row if there is none.
func (tx *Tx) InitInstallation(origin string, now time.Time) error {
	return tx.do(`INSERT INTO installation (id, log_origin, created_at) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING`, origin, toMicros(now))
}

// SetCluster records the cluster, which has yet to sync. Adopting lets its namespaces take over organizations by name.
func (tx *Tx) SetCluster(uid string, adopting bool) error {
	return tx.do(`UPDATE installation SET cluster_uid = $1, synced = FALSE, adopting = $2 WHERE id = 1`, uid, adopting)
}

// SetSynced records that the operator has synced.
func (tx *Tx) SetSynced() error {
	return tx.do(`UPDATE installation SET synced = TRUE, adopting = FALSE WHERE id = 1`)
}

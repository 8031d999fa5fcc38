package registry

import (
	"github.com/tidelock/tidelock/registry/forward"
)

// forwardLog prepares the forwarding of the audit log, if there is anybody to forward it to.
func (r *Registry) forwardLog(cfg Config, metrics *metrics) error {
	targets, err := forward.ParseTargets(cfg.AuditForward)
	if err != nil || len(targets) == 0 {
		return err
	}
	forwarder, err := forward.New(forward.Options{Log: r.core, Targets: targets, Logger: r.logger})
	if err != nil {
		return err
	}
	metrics.gatherer.MustRegister(forwarder.Metrics()...)
	r.background = append(r.background, forwarder.Run)
	return nil
}

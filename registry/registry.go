// Package registry puts the parts of the registry together: one data directory, one HTTP server with /v2, /api, health
// and metrics. It imports nothing of Kubernetes.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/blob/fs"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/gc"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
	"github.com/tidelock/tidelock/registry/mgmtapi"
	"github.com/tidelock/tidelock/registry/mirror"
	"github.com/tidelock/tidelock/registry/ociapi"
)

// expireInterval is how often idle uploads are looked for.
const expireInterval = time.Minute

// Registry is a registry that has its data directory and its port. Run serves; who does not call it calls Close.
type Registry struct {
	logger   *slog.Logger
	listener net.Listener
	tls      bool
	server   *http.Server
	core     *core.Core
	auth     *auth.Authenticator
	oci      *ociapi.API
	// directory is watched for room on its disk; nil if everything is kept elsewhere.
	directory *fs.Directory
	// gc is nil if garbage is not collected.
	gc      *gc.Collector
	mirrors *mirror.Engine
	// background is other work that goes on until the registry drains.
	background []func(context.Context) error

	// draining ends when no new work is taken any more.
	draining   context.Context
	startDrain context.CancelFunc

	// closers undo what New did, the last first.
	closers []func() error
}

// New takes the data directory and the port. From then on clients can connect; they are answered once Run runs.
func New(cfg Config) (_ *Registry, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	r := &Registry{logger: withRequestIDs(cfg.Logger), tls: cfg.TLSCert != ""}
	r.draining, r.startDrain = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()

	if cfg.usesDirectory() {
		if r.directory, err = fs.Lock(cfg.DataDir); err != nil {
			return nil, err
		}
		r.closers = append(r.closers, r.directory.Release)
		// Before the database is opened: on a full disk it needs the reserve.
		if err := r.directory.Check(); err != nil {
			return nil, err
		}
	}
	store, err := cfg.openDatabase(context.Background(), r.logger)
	if err != nil {
		return nil, err
	}
	r.closers = append(r.closers, store.Close)
	if embedded, ok := store.(*sqlite.Store); ok {
		embedded.OnFull(r.makeRoom)
	}
	blobs, closeBlobs, err := openBlobs(cfg.BlobStore, r.directory, r.logger)
	if err != nil {
		return nil, err
	}
	r.closers = append(r.closers, closeBlobs)

	keys, err := cfg.auditKeys()
	if err != nil {
		return nil, err
	}
	sealer, err := cfg.sealer()
	if err != nil {
		return nil, err
	}
	r.core = core.New(store, core.Options{
		Logger: r.logger, DeletionDelay: cfg.PoliciesDeletionDelay, MaxLock: cfg.PoliciesMaxLock, RequireSync: cfg.OperatorTokenFile != "",
		Sparse:        core.Sparse{Indexes: cfg.SparseIndexes, Images: cfg.SparseImages},
		SharedUploads: cfg.BlobStore != "", Replicas: !cfg.embedded(),
		Collection: cfg.GC.collection(), Room: r.room, AuditKeys: keys, Sealer: sealer,
		Superusers: auth.EffectiveSuperusers(cfg.Superusers, cfg.ReadonlySuperusers),
	})
	if err := r.renewSeals(); err != nil {
		return nil, err
	}
	installation, err := r.core.Name(context.Background())
	if err != nil {
		return nil, err
	}
	issuers, err := cfg.oidcIssuers()
	if err != nil {
		return nil, err
	}
	r.auth, err = auth.New(auth.Options{
		Cluster: cfg.Cluster, OIDCIssuers: issuers,
		AdminPasswordFile: cfg.AdminPasswordFile, OperatorTokenFile: cfg.OperatorTokenFile, TokenKeyFile: cfg.TokenKeyFile, TokenLifetime: cfg.TokenLifetime,
		Superusers: cfg.Superusers, SuperusersFullAccess: cfg.SuperusersFullAccess, ReadonlySuperusers: cfg.ReadonlySuperusers,
		Accounts: r.core, Installation: installation, ExternalURL: cfg.ExternalURL, TrustedProxies: cfg.TrustedProxies, Logger: r.logger,
	})
	if err != nil {
		return nil, err
	}
	r.oci = ociapi.New(ociapi.Options{Core: r.core, Blobs: blobs, Auth: r.auth, Logger: r.logger, Redirect: cfg.BlobRedirect})
	if files, ok := blobs.(*fs.Store); ok {
		if err := files.Prune(func(id string) (bool, error) { return r.core.UploadOpen(context.Background(), id) }); err != nil {
			return nil, err
		}
	}
	r.mirrors = mirror.New(mirror.Options{Core: r.core, Blobs: blobs, Logger: r.logger, Networks: cfg.MirrorAllowNetworks})
	r.background = append(r.background, r.mirrors.Run)
	management := mgmtapi.New(mgmtapi.Options{
		Core: r.core, Authenticator: r.auth, Mirrors: r.mirrors, Logger: r.logger, Draining: r.draining,
		ReadonlySuperusers: cfg.ReadonlySuperusers, Settings: cfg.settings(),
	})
	metrics := newMetrics()
	metrics.gatherer.MustRegister(r.core.Metrics()...)
	metrics.gatherer.MustRegister(logMetrics(r.core)...)
	if r.directory != nil {
		metrics.gatherer.MustRegister(diskMetrics(r.directory)...)
	}
	if cfg.GC.Interval > 0 {
		r.gc = gc.New(gc.Options{Core: r.core, Blobs: blobs, Logger: r.logger, Interval: cfg.GC.Interval})
		metrics.gatherer.MustRegister(r.gc.Metrics()...)
	}
	metrics.gatherer.MustRegister(r.mirrors.Metrics()...)
	if err := errors.Join(r.forwardLog(cfg, metrics), r.pruneLog(cfg, metrics)); err != nil {
		return nil, err
	}
	r.server = newServer(r.logger, metrics, r.ready, r.oci, management)
	if r.tls {
		if r.server.TLSConfig, err = tlsConfig(cfg.TLSCert, cfg.TLSKey, r.logger); err != nil {
			return nil, err
		}
	}
	if r.listener, err = new(net.ListenConfig).Listen(context.Background(), "tcp", cfg.Listen); err != nil {
		return nil, err
	}
	r.closers = append(r.closers, func() error {
		if err := r.listener.Close(); !errors.Is(err, net.ErrClosed) { // the server closes it too
			return err
		}
		return nil
	})
	return r, nil
}

// renewSeals seals with the first key what an older one sealed.
func (r *Registry) renewSeals() error {
	renewed, err := r.core.SealMirrorSecrets(context.Background())
	if err != nil {
		return fmt.Errorf("credentials of mirrors: %w", err)
	}
	if renewed > 0 {
		r.logger.Info("sealed credentials of mirrors with the first key", "mirrors", renewed)
	}
	return nil
}

// Addr is the address that the registry serves on.
func (r *Registry) Addr() net.Addr { return r.listener.Addr() }

// URL is where a client on this machine reaches the registry, for instance "http://127.0.0.1:5000".
func (r *Registry) URL() string {
	host, port, _ := net.SplitHostPort(r.Addr().String())
	if ip := net.ParseIP(host); ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http"
	if r.tls {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// Run serves until the context ends. Then it takes no new work, finishes the requests that run, however long their
// clients need, writes what core still has to write, and closes everything.
func (r *Registry) Run(ctx context.Context) error {
	// Core goes on until the last request has its answer.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.core.Run(background) })
	group.Go(func() error {
		r.auth.Run(background)
		return nil
	})
	group.Go(func() error {
		r.expireUploads(ctx)
		return nil
	})
	if r.directory != nil {
		group.Go(func() error {
			r.directory.Watch(ctx, r.logger, r.collectGarbage)
			return nil
		})
	}
	if r.gc != nil {
		group.Go(func() error { return r.gc.Run(ctx) })
	}
	for _, work := range r.background {
		group.Go(func() error { return work(ctx) })
	}
	group.Go(func() error {
		r.logger.Info("serving", "url", r.URL(), "version", domain.Version)
		if err := r.serve(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		r.logger.Info("draining: no new requests are taken")
		r.startDrain()
		defer stopBackground()
		return r.server.Shutdown(context.Background())
	})
	err := errors.Join(group.Wait(), r.Close())
	r.logger.Info("stopped")
	return err
}

func (r *Registry) serve() error {
	if r.tls {
		return r.server.ServeTLS(r.listener, "", "")
	}
	return r.server.Serve(r.listener)
}

// room returns why no content can be stored, nil if it can.
func (r *Registry) room() error {
	if r.directory == nil {
		return nil
	}
	return r.directory.Room()
}

// makeRoom gives up the reserve of the disk.
func (r *Registry) makeRoom() {
	if err := r.directory.Check(); err != nil {
		r.logger.Error("cannot give up the reserve of disk space", "error", err)
	}
}

// collectGarbage starts a run of garbage collection, if there are any.
func (r *Registry) collectGarbage() {
	if r.gc != nil {
		r.gc.Wake()
	}
}

func (r *Registry) expireUploads(ctx context.Context) {
	ticker := time.NewTicker(expireInterval)
	defer ticker.Stop()
	for {
		r.oci.ExpireUploads(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// ready reports whether the registry can do its work.
func (r *Registry) ready(ctx context.Context) error {
	if r.draining.Err() != nil {
		return errors.New("the registry is shutting down")
	}
	return r.core.Ready(ctx)
}

// Close gives back what New took. Run does it by itself.
func (r *Registry) Close() error {
	r.startDrain()
	var errs []error
	for _, undo := range slices.Backward(r.closers) {
		errs = append(errs, undo())
	}
	r.closers = nil
	return errors.Join(errs...)
}

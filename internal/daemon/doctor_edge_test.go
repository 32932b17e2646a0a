package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/smallstep/certificates/authority/config"

	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
	"github.com/mosaicstack/gateway/internal/doctor"
)

// notStepCA is a server that the CA vouches for, and that is no CA.
func notStepCA(p *patient) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{p.serverCert(p.t, "127.0.0.1", time.Hour)}}
	s.StartTLS()
	p.t.Cleanup(s.Close)
	p.env["STEP_CA_URL"] = s.URL
}

// ownCA makes the patient's own step-ca, changed before it starts; the listener is signed by its root.
func ownCA(edit func(p *patient, s *stepcatest.Server, conf *config.Config)) func(*patient) {
	return func(p *patient) {
		own := *p.ward
		first := stepcatest.Start(p.t)
		own.ca = first.Restart(p.t, func(conf *config.Config) { edit(p, first, conf) })
		own.root, own.rootKey = own.ca.Roots[0], signerOf(p.t, own.ca)
		p.ward = &own
		p.env["STEP_CA_URL"], p.env["STEP_CA_PROVISIONER_PASSWORD"] = own.ca.URL, string(own.ca.Password)
		p.env["STEP_CA_ROOT_CERT_PATH"] = pemFile(p.t, own.root)
		p.env["MOSAIC_FEDERATION_URL"] = "https://" + own.serveFederation(p.t, own.serverCert(p.t, "127.0.0.1", time.Hour))
	}
}

func caCases() []doctorCase {
	roots := func(left time.Duration, also bool) func(*patient) {
		return func(p *patient) {
			pinned := []*x509.Certificate{strangeRoot(p.t, left)}
			if also {
				pinned = append(pinned, p.root)
			}
			p.env["STEP_CA_ROOT_CERT_PATH"] = pemFile(p.t, pinned...)
		}
	}
	fed := func(name string) func(*patient) { return set("STEP_CA_PROVISIONER", name) }
	srv := func(name string) func(*patient) { return set("STEP_CA_SERVER_PROVISIONER", name) }
	emits := []string{doctor.TemplateEmits}
	return []doctorCase{
		{"no CA", set("STEP_CA_URL", "https://"+nobodyThere), found{doctor.CAReachable: fail}, []string{doctor.CAReachable}},
		{"something that is no CA", notStepCA, found{doctor.CAReachable: fail}, []string{doctor.CAReachable}},
		{"a root file that is none", func(p *patient) { p.env["STEP_CA_ROOT_CERT_PATH"] = fileOf(p.t, "hello") }, found{doctor.RootFile: fail}, []string{doctor.RootFile}},
		{"another root than the CA's", roots(240*24*time.Hour, false), found{doctor.CARoot: fail}, []string{doctor.CARoot}},
		{"a root that has ended", roots(-time.Hour, false), found{doctor.RootExpiry: fail}, []string{doctor.RootExpiry}},
		{"an old root that has ended, beside the new one", roots(-time.Hour, true), found{doctor.RootExpiry: warn}, nil},
		{"a root that ends soon", roots(10*24*time.Hour, true), found{doctor.RootExpiry: warn}, nil},
		{"an intermediate that ends soon", ownCA(briefIntermediate), found{doctor.IssuerExpiry: warn}, nil},
		{"no list of revoked certificates", ownCA(func(_ *patient, _ *stepcatest.Server, conf *config.Config) { conf.CRL = nil }), found{doctor.CACRL: warn}, nil},
		{"no database at the CA", ownCA(func(_ *patient, _ *stepcatest.Server, conf *config.Config) { conf.DB, conf.CRL = nil, nil }), found{doctor.CARevokes: fail, doctor.CACRL: warn}, nil},
		{"no such provisioner", fed("nowhere"), found{doctor.CAProvisioner: fail}, []string{doctor.CAProvisioner}},
		{"a wrong password of the provisioner", func(p *patient) {
			p.env["STEP_CA_PROVISIONER_PASSWORD"], p.env["STEP_CA_SERVER_PROVISIONER_PASSWORD"] = "hunter2", string(p.ca.Password)
		}, found{doctor.CAKey: fail}, []string{doctor.CAKey}},
		{"a provisioner whose key the CA does not keep", fed("keyless"), found{doctor.CAKey: fail}, []string{doctor.CAKey}},
		{"an ordinary template", fed("ordinary"), found{doctor.TemplateEmits: fail, doctor.TemplateRefuses: fail}, emits},
		{"a template without guards", fed("unguarded"), found{doctor.TemplateRefuses: fail}, nil},
		{"a template that refuses all", fed("refuses-all"), found{doctor.TemplateEmits: fail}, emits},
		{"a template of another arc", fed("other-arc"), found{doctor.TemplateEmits: fail}, emits},
		{"a template with one usage too many", fed("also-server"), found{doctor.TemplateEmits: fail}, emits},
		{"lifetimes that are cut", fed("brief"), found{doctor.CALifetime: warn}, nil},
		{"lifetimes that are too long", fed("long"), found{doctor.CALifetime: fail}, nil},
		{"a CA that renews by itself", fed("renews"), found{doctor.CARenewal: warn}, nil},
		{"no such provisioner for the listener", srv("nowhere"), found{doctor.ServerProvisioner: fail}, []string{doctor.ServerProvisioner}},
		{"a wrong password of the listener's provisioner", set("STEP_CA_SERVER_PROVISIONER_PASSWORD", "hunter2"), found{doctor.ServerKey: fail}, []string{doctor.ServerKey}},
		{"a listener's provisioner that signs too briefly", srv("brief-server"), found{doctor.ServerCertificate: fail}, nil},
		{"a listener's provisioner that identifies", srv("identified-server"), found{doctor.ServerCertificate: fail}, nil},
	}
}

// briefIntermediate replaces the CA's intermediate by one that ends in ten days.
func briefIntermediate(p *patient, s *stepcatest.Server, conf *config.Config) {
	was := readCertificate(p.t, conf.IntermediateCert)
	brief := *was
	brief.SerialNumber, brief.NotAfter = serialOf(p.t), time.Now().Add(10*24*time.Hour)
	brief.PublicKey = nil
	cert := signPublic(p.t, &brief, s.Roots[0], was.PublicKey, signerOf(p.t, s))
	pem, err := os.ReadFile(pemFile(p.t, cert))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(conf.IntermediateCert, pem, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// listens puts a certificate at the federation URL that ends after left.
func listens(host string, left time.Duration) func(*patient) {
	return func(p *patient) {
		p.env["MOSAIC_FEDERATION_URL"] = "https://" + p.serveFederation(p.t, p.serverCert(p.t, host, left))
	}
}

// proxied puts a proxy in front that ends TLS with a certificate of its own.
func proxied(cert func(p *patient) tls.Certificate) func(*patient) {
	return func(p *patient) {
		p.env["MOSAIC_FEDERATION_URL"] = "https://" + serveTLS(p.t, &tls.Config{Certificates: []tls.Certificate{cert(p)}})
	}
}

// passed puts a proxy in front that passes TCP on.
func passed(p *patient) { p.env["MOSAIC_FEDERATION_URL"] = "https://" + passTo(p.t, p.listener) }

// passTo passes TCP on, to one after the other.
func passTo(t *testing.T, backends ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for i := 0; ; i++ {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", backends[i%len(backends)])
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
		}
	}()
	return l.Addr().String()
}

// inFiles makes the listener's certificate one from files, and has it answer.
func inFiles(cert func(p *patient) (inFile, answering tls.Certificate)) func(*patient) {
	return func(p *patient) {
		inFile, answering := cert(p)
		p.env["MOSAIC_FEDERATION_TLS_CERT_FILE"], p.env["MOSAIC_FEDERATION_TLS_KEY_FILE"] = pemFile(p.t, inFile.Leaf), keyFile(p.t, inFile)
		p.env["MOSAIC_FEDERATION_URL"] = "https://" + p.serveFederation(p.t, answering)
	}
}

func (p *patient) answersPublicly(h http.HandlerFunc) {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS() // with the certificate of every httptest server
	p.t.Cleanup(s.Close)
	p.env["MOSAIC_PUBLIC_URL"] = s.URL
}

func publicly(h http.HandlerFunc) func(*patient) { return func(p *patient) { p.answersPublicly(h) } }

func addressCases() []doctorCase {
	through := found{doctor.FederationPassthrough: fail}
	not := []string{doctor.FederationPassthrough}
	return []doctorCase{
		{"a proxy that passes TLS on", passed, found{}, nil},
		{"another replica, or a proxy with all that is ours", func(p *patient) {
			own := p.serveFederation(p.t, p.serverCert(p.t, "127.0.0.1", time.Hour))
			p.change = func(c *doctor.Config) { c.OwnListener = own }
		}, found{doctor.FederationPassthrough: warn}, nil},
		{"two replicas behind one address", func(p *patient) {
			own := p.serveFederation(p.t, p.serverCert(p.t, "127.0.0.1", time.Hour))
			p.env["MOSAIC_FEDERATION_URL"] = "https://" + passTo(p.t, p.listener, own)
			p.change = func(c *doctor.Config) { c.OwnListener = own }
		}, found{}, nil},
		{"a proxy that ends TLS", proxied(func(p *patient) tls.Certificate { return signed(p.t, "127.0.0.1", time.Hour, nil, nil) }), through, not},
		{"a proxy that ends TLS with a certificate of ours", proxied(func(p *patient) tls.Certificate { return p.serverCert(p.t, "127.0.0.1", time.Hour) }), through, not},
		{"a proxy that asks for other certificates", func(p *patient) {
			conf := &tls.Config{Certificates: []tls.Certificate{p.serverCert(p.t, "127.0.0.1", time.Hour)}, ClientAuth: tls.RequireAnyClientCert, ClientCAs: poolOf(strangeRoot(p.t, time.Hour))}
			p.env["MOSAIC_FEDERATION_URL"] = "https://" + serveTLS(p.t, conf)
		}, through, not},
		{"no listener", set("MOSAIC_FEDERATION_URL", "https://"+nobodyThere), found{doctor.FederationReachable: fail}, []string{doctor.FederationReachable}},
		{"no TLS at the listener's address", func(p *patient) {
			s := httptest.NewServer(http.NotFoundHandler())
			p.t.Cleanup(s.Close)
			p.env["MOSAIC_FEDERATION_URL"] = "https" + s.URL[len("http"):]
		}, found{doctor.FederationReachable: fail}, []string{doctor.FederationReachable}},
		{"a listener's certificate that has ended", listens("127.0.0.1", -time.Minute), found{doctor.FederationCertificate: fail}, nil},
		{"a listener's certificate near its end", listens("127.0.0.1", 10*time.Minute), found{doctor.FederationCertificate: warn}, nil},
		{"a listener's certificate for another host", listens("other.example", time.Hour), found{doctor.FederationCertificate: fail}, nil},
		{"a certificate from files", inFiles(func(p *patient) (tls.Certificate, tls.Certificate) {
			c := p.serverCert(p.t, "127.0.0.1", time.Hour)
			return c, c
		}), found{}, nil},
		{"a key of another certificate", func(p *patient) {
			c := p.serverCert(p.t, "127.0.0.1", time.Hour)
			p.env["MOSAIC_FEDERATION_TLS_CERT_FILE"], p.env["MOSAIC_FEDERATION_TLS_KEY_FILE"] = pemFile(p.t, c.Leaf), keyFile(p.t, p.serverCert(p.t, "x", time.Hour))
		}, found{doctor.ListenerFiles: fail}, []string{doctor.ListenerFiles}},
		{"a certificate from files that peers do not trust", inFiles(func(p *patient) (tls.Certificate, tls.Certificate) {
			c := signed(p.t, "127.0.0.1", time.Hour, nil, nil)
			return c, c
		}), found{doctor.ListenerFiles: fail}, []string{doctor.ListenerFiles}},
		{"another certificate than the files'", inFiles(func(p *patient) (tls.Certificate, tls.Certificate) {
			return p.serverCert(p.t, "127.0.0.1", time.Hour), p.serverCert(p.t, "127.0.0.1", time.Hour)
		}), through, not},
		{"plain HTTP on this machine", func(p *patient) {
			s := httptest.NewServer(p.public.Config.Handler)
			p.t.Cleanup(s.Close)
			p.env["MOSAIC_PUBLIC_URL"] = s.URL
		}, found{doctor.PublicHTTPS: warn}, nil},
		{"plain HTTP over the network", func(p *patient) {
			s := httptest.NewServer(p.public.Config.Handler)
			p.t.Cleanup(s.Close)
			_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
			p.env["MOSAIC_PUBLIC_URL"] = "http://0.0.0.0:" + port
		}, found{doctor.PublicHTTPS: fail}, nil},
		{"nobody at the public address", set("MOSAIC_PUBLIC_URL", "https://"+nobodyThere), found{doctor.PublicReachable: fail}, []string{doctor.PublicReachable}},
		{"a public certificate that is not trusted", func(p *patient) {
			s := httptest.NewUnstartedServer(p.public.Config.Handler)
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
			s.TLS = &tls.Config{Certificates: []tls.Certificate{signed(p.t, "127.0.0.1", time.Hour, nil, nil)}}
			s.StartTLS()
			p.t.Cleanup(s.Close)
			p.env["MOSAIC_PUBLIC_URL"] = s.URL
		}, found{doctor.PublicReachable: fail}, []string{doctor.PublicReachable}},
		{"somebody else at the public address", publicly(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>Welcome</html>") }), found{doctor.PublicGateway: fail}, []string{doctor.PublicGateway}},
		{"a login in front", publicly(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://login.example", http.StatusFound)
		}), found{doctor.PublicGateway: fail}, []string{doctor.PublicGateway}},
		{"a prefix that is lost", func(p *patient) { p.env["MOSAIC_PUBLIC_URL"] = p.public.URL + "/mosaic" }, found{doctor.PublicGateway: fail}, []string{doctor.PublicGateway}},
		{"a gateway with a part away", publicly(says(http.StatusOK, `{"status":"degraded","tier":"federated","version":"v","checks":{"ca":"down"}}`)), found{doctor.PublicHealth: warn}, nil},
		{"a gateway that is down", publicly(says(http.StatusServiceUnavailable, `{"status":"down","tier":"federated","version":"v","checks":{"database":"down"}}`)), found{doctor.PublicHealth: fail}, nil},
	}
}

func machineCases() []doctorCase {
	free := func(n uint64) func(*patient) {
		return func(p *patient) {
			p.change = func(c *doctor.Config) { c.Machine.Free = func(string) (uint64, error) { return n, nil } }
		}
	}
	limit := func(n uint64) func(*patient) {
		return func(p *patient) {
			p.change = func(c *doctor.Config) { c.Machine.OpenFiles = func() (uint64, error) { return n, nil } }
		}
	}
	return []doctorCase{
		{"a directory that is a file", func(p *patient) { p.env["MOSAIC_DIR"] = fileOf(p.t, "") }, found{doctor.DirUsable: fail, doctor.GatewayRunning: warn}, []string{doctor.DirUsable}},
		{"a full disk", free(1000), found{doctor.DiskSpace: fail}, nil},
		{"a disk that is nearly full", free(100 << 10), found{doctor.DiskSpace: warn}, nil},
		{"few open files", limit(2048), found{doctor.FileLimit: warn}, nil},
		{"too few open files", limit(256), found{doctor.FileLimit: fail}, nil},
		{"no gateway yet", func(p *patient) {
			p.env["MOSAIC_DIR"] = filepath.Join(shortDir(p.t), "not-there")
			p.env["MOSAIC_PUBLIC_URL"], p.env["MOSAIC_FEDERATION_URL"] = "https://"+nobodyThere, "https://"+nobodyThere
		}, found{doctor.GatewayRunning: warn}, []string{doctor.GatewayRunning}},
		{"no embeddings endpoint", func(p *patient) {
			for _, name := range []string{"EMBEDDINGS_URL", "EMBEDDINGS_MODEL", "EMBEDDINGS_API_KEY"} {
				p.env[name] = ""
			}
		}, found{doctor.EmbeddingsEndpoint: warn}, nil},
		{"an embeddings endpoint that is away", set("EMBEDDINGS_URL", "http://"+nobodyThere), found{doctor.EmbeddingsEndpoint: fail}, nil},
	}
}

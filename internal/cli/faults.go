package cli

import "github.com/mosaicstack/gateway/internal/fault"

// What the command line itself refuses. Everything else that is refused comes from the gateway, in its words.
var (
	errUsage = &fault.Fault{
		Kind: fault.Malformed, Code: "usage",
		Detail: "the command line cannot be read",
	}
	errNotRunning = &fault.Fault{
		Kind: fault.Unavailable, Code: "gateway_not_running",
		Detail: "no gateway runs here",
		Hint:   "start it: mosaic gateway dev, or set MOSAIC_URL and MOSAIC_TOKEN",
	}
	errSocketForbidden = &fault.Fault{
		Kind: fault.Forbidden, Code: "socket_forbidden",
		Detail: "the admin socket may not be used by you",
		Hint:   "run this as the user that started the gateway, or set MOSAIC_URL and MOSAIC_TOKEN",
	}
	errUnreachable = &fault.Fault{
		Kind: fault.Unavailable, Code: "gateway_unreachable",
		Detail: "the gateway does not answer",
		Hint:   "check the address, and that the gateway runs there",
	}
	errConnectionLost = &fault.Fault{
		Kind: fault.Unavailable, Code: "connection_lost",
		Detail: "the connection ended before the answer did",
		Hint:   "whether it was done is not known: look before you repeat it",
	}
	errTimeout = &fault.Fault{
		Kind: fault.GatewayTimeout, Code: "gateway_timeout",
		Detail: "the gateway did not answer in time",
		Hint:   "whether it was done is not known: look before you repeat it",
	}
	errUntrusted = &fault.Fault{
		Kind: fault.Unavailable, Code: "gateway_untrusted",
		Detail: "the gateway's certificate is not trusted",
		Hint:   "if a CA of your own signed it, name its certificate: SSL_CERT_FILE=ca.pem mosaic …",
	}
	errInsecureURL = &fault.Fault{
		Kind: fault.Invalid, Code: "insecure_url",
		Detail: "a token is not sent over plain http",
		Hint:   "use the https:// address; plain http works on loopback only",
	}
	errRedirect = &fault.Fault{
		Kind: fault.BadGateway, Code: "redirect_refused",
		Detail: "the address answers with a redirect, which is not followed",
		Hint:   "give the gateway's own address as --url",
	}
	errNotAGateway = &fault.Fault{
		Kind: fault.BadGateway, Code: "answer_unexpected",
		Detail: "the answer is not one of a Mosaic gateway",
		Hint:   "check the address; a proxy answers like this when the gateway behind it is away",
	}
	errAnswerTooLarge = &fault.Fault{
		Kind: fault.BadGateway, Code: "answer_too_large",
		Detail: "the answer is larger than 64 MiB",
		Hint:   "ask for less: --limit N",
	}
	errFileUnreadable = &fault.Fault{
		Kind: fault.Invalid, Code: "file_unreadable",
		Detail: "a file cannot be read",
		Hint:   "check its name and its permissions; - reads standard input",
	}
	errSecretUnreadable = &fault.Fault{
		Kind: fault.Invalid, Code: "secret_unreadable",
		Detail: "this does not hold one secret",
		Hint:   "put it on one line, alone",
	}
	errPort = &fault.Fault{
		Kind: fault.Invalid, Code: "config_invalid",
		Detail: "GATEWAY_PORT is not a port",
		Hint:   "set it to a number from 1 to 65535, or leave it out for 3000",
	}
	errDoctor = &fault.Fault{
		Kind: fault.Conflict, Code: "doctor_failed",
		Detail: "a check failed",
		Hint:   "do what the remedies say, the first one first; docs/doctor.md describes each check",
	}
	errInterrupted = &fault.Fault{
		Kind: fault.Unavailable, Code: "interrupted",
		Detail: "interrupted",
	}
	errOutput = &fault.Fault{
		Kind: fault.Internal, Code: "output_failed",
		Detail: "what was done could not be shown",
		Hint:   "the gateway has done it; look before you repeat it",
	}
)

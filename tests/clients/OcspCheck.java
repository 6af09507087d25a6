import java.io.FileInputStream;
import java.io.InputStream;
import java.net.URI;
import java.security.cert.CertPath;
import java.security.cert.CertPathValidator;
import java.security.cert.CertPathValidatorException;
import java.security.cert.CertificateFactory;
import java.security.cert.CertificateRevokedException;
import java.security.cert.PKIXParameters;
import java.security.cert.PKIXRevocationChecker;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.EnumSet;
import java.util.List;
import java.util.Set;

/** Asks an OCSP responder about one certificate with the JDK's own checker. Usage: OcspCheck CA CERT URL. */
public class OcspCheck {
    public static void main(String[] args) throws Exception {
        CertificateFactory factory = CertificateFactory.getInstance("X.509");
        X509Certificate ca = read(factory, args[0]);
        X509Certificate certificate = read(factory, args[1]);
        CertPathValidator validator = CertPathValidator.getInstance("PKIX");
        PKIXRevocationChecker checker = (PKIXRevocationChecker) validator.getRevocationChecker();
        checker.setOptions(EnumSet.of(
                PKIXRevocationChecker.Option.NO_FALLBACK, PKIXRevocationChecker.Option.ONLY_END_ENTITY));
        checker.setOcspResponder(new URI(args[2]));
        PKIXParameters parameters = new PKIXParameters(Set.of(new TrustAnchor(ca, null)));
        parameters.addCertPathChecker(checker);
        CertPath path = factory.generateCertPath(List.of(certificate));
        try {
            validator.validate(path, parameters);
            System.out.println("GOOD");
        } catch (CertPathValidatorException error) {
            Throwable cause = error.getCause();
            if (cause instanceof CertificateRevokedException) {
                CertificateRevokedException revoked = (CertificateRevokedException) cause;
                System.out.println("REVOKED " + revoked.getRevocationReason() + " "
                        + revoked.getRevocationDate().toInstant());
            } else {
                System.out.println("FAILED " + error.getReason() + " " + error.getMessage()
                        + (cause == null ? "" : " / " + cause.getMessage()));
            }
        }
    }

    private static X509Certificate read(CertificateFactory factory, String name) throws Exception {
        try (InputStream in = new FileInputStream(name)) {
            return (X509Certificate) factory.generateCertificate(in);
        }
    }
}

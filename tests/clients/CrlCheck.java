import java.io.FileInputStream;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.CertPathValidator;
import java.security.cert.CertPathValidatorException;
import java.security.cert.CertStore;
import java.security.cert.CertificateFactory;
import java.security.cert.CertificateRevokedException;
import java.security.cert.CollectionCertStoreParameters;
import java.security.cert.PKIXParameters;
import java.security.cert.TrustAnchor;
import java.security.cert.X509CRL;
import java.security.cert.X509CRLEntry;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.Date;
import java.util.List;
import java.util.Set;

/**
 * What the JDK makes of CRLs, many cases in one run. Usage: CrlCheck PLAN, a file with a case a line, words between tabs:
 *
 * <pre>validate NAME CA CERTIFICATE SECONDS CRL...   a path validation at that time with these CRLs
 * read NAME CA CERTIFICATE CRL                  the CRL's signature, critical extensions, and its entry about the certificate</pre>
 *
 * Prints NAME, a tab, and what was found, a line each.
 */
public class CrlCheck {
    private static CertificateFactory factory;

    public static void main(String[] args) throws Exception {
        factory = CertificateFactory.getInstance("X.509");
        for (String line : Files.readAllLines(Path.of(args[0]))) {
            String[] words = line.split("\t");
            String found;
            try {
                found = words[0].equals("validate") ? validate(words) : read(words);
            } catch (Exception error) {
                found = "ERROR " + error;
            }
            System.out.println(words[1] + "\t" + found.replace('\n', ' '));
        }
    }

    private static String validate(String[] words) throws Exception {
        List<X509CRL> crls = new ArrayList<>();
        for (int at = 5; at < words.length; at++) {
            crls.add(crl(words[at]));
        }
        PKIXParameters parameters = new PKIXParameters(Set.of(new TrustAnchor(certificate(words[2]), null)));
        parameters.setRevocationEnabled(true);
        parameters.setDate(new Date(1000 * Long.parseLong(words[4])));
        parameters.addCertStore(CertStore.getInstance("Collection", new CollectionCertStoreParameters(crls)));
        try {
            CertPathValidator.getInstance("PKIX")
                    .validate(factory.generateCertPath(List.of(certificate(words[3]))), parameters);
            return "GOOD";
        } catch (CertPathValidatorException error) {
            if (error.getCause() instanceof CertificateRevokedException revoked) {
                return "REVOKED " + revoked.getRevocationReason() + " " + revoked.getRevocationDate().toInstant();
            }
            return "FAILED " + error.getReason();
        }
    }

    private static String read(String[] words) throws Exception {
        X509CRL crl = crl(words[4]);
        crl.verify(certificate(words[2]).getPublicKey());
        X509CRLEntry entry = crl.getRevokedCertificate(certificate(words[3]).getSerialNumber());
        Set<? extends X509CRLEntry> entries = crl.getRevokedCertificates();
        return "VERIFIED entries=" + (entries == null ? 0 : entries.size())
                + " critical=" + new java.util.TreeSet<>(crl.getCriticalExtensionOIDs())
                + " entry=" + (entry == null ? "none" : entry.getRevocationReason() + " "
                + entry.getRevocationDate().toInstant());
    }

    private static X509Certificate certificate(String name) throws Exception {
        try (InputStream in = new FileInputStream(name)) {
            return (X509Certificate) factory.generateCertificate(in);
        }
    }

    private static X509CRL crl(String name) throws Exception {
        try (InputStream in = new FileInputStream(name)) {
            return (X509CRL) factory.generateCRL(in);
        }
    }
}

import java.util.List;
import java.util.concurrent.TimeUnit;
import javax.cache.expiry.CreatedExpiryPolicy;
import javax.cache.expiry.Duration;
import org.apache.ignite.Ignition;
import org.apache.ignite.cache.CacheMode;
import org.apache.ignite.configuration.CacheConfiguration;
import org.apache.ignite.configuration.ClientConnectorConfiguration;
import org.apache.ignite.configuration.DataPageEvictionMode;
import org.apache.ignite.configuration.DataRegionConfiguration;
import org.apache.ignite.configuration.DataStorageConfiguration;
import org.apache.ignite.configuration.IgniteConfiguration;
import org.apache.ignite.logger.java.JavaLogger;
import org.apache.ignite.spi.communication.tcp.TcpCommunicationSpi;
import org.apache.ignite.spi.discovery.tcp.TcpDiscoverySpi;
import org.apache.ignite.spi.discovery.tcp.ipfinder.vm.TcpDiscoveryVmIpFinder;

/**
 * One Ignite node on loopback, in memory alone. Java runs this file as it is; Ignite's XML would need Spring.
 *
 * Arguments: folder, client port, discovery port, communication port, megabytes for entries, hours an entry is kept.
 */
class Node {
    public static void main(String[] arguments) {
        int clientPort = Integer.parseInt(arguments[1]);
        int discoveryPort = Integer.parseInt(arguments[2]);
        int communicationPort = Integer.parseInt(arguments[3]);
        long bytes = Long.parseLong(arguments[4]) * 1024 * 1024;
        long hours = Long.parseLong(arguments[5]);

        // When memory is full, the least recently used pages are evicted: a full cache is not an error.
        DataRegionConfiguration region = new DataRegionConfiguration()
            .setName("default").setInitialSize(Math.min(bytes, 32L * 1024 * 1024)).setMaxSize(bytes)
            .setPageEvictionMode(DataPageEvictionMode.RANDOM_2_LRU);
        CacheConfiguration<String, byte[]> parts = new CacheConfiguration<String, byte[]>("batch_parts")
            .setCacheMode(CacheMode.PARTITIONED).setBackups(0)
            .setExpiryPolicyFactory(CreatedExpiryPolicy.factoryOf(new Duration(TimeUnit.HOURS, hours)));

        // A single node: it looks for no others, and listens on loopback only.
        TcpDiscoverySpi discovery = new TcpDiscoverySpi();
        discovery.setLocalAddress("127.0.0.1").setLocalPort(discoveryPort).setLocalPortRange(0);
        discovery.setIpFinder(new TcpDiscoveryVmIpFinder().setAddresses(List.of("127.0.0.1:" + discoveryPort)));
        TcpCommunicationSpi communication = new TcpCommunicationSpi();
        communication.setLocalAddress("127.0.0.1").setLocalPort(communicationPort).setLocalPortRange(0);

        Ignition.start(new IgniteConfiguration()
            .setWorkDirectory(arguments[0]).setLocalHost("127.0.0.1")
            .setGridLogger(new JavaLogger()).setMetricsLogFrequency(0)
            .setDiscoverySpi(discovery).setCommunicationSpi(communication)
            .setDataStorageConfiguration(new DataStorageConfiguration().setDefaultDataRegionConfiguration(region))
            .setClientConnectorConfiguration(new ClientConnectorConfiguration().setHost("127.0.0.1").setPort(clientPort).setPortRange(0).setThreadPoolSize(2))
            .setCacheConfiguration(parts)
            .setPublicThreadPoolSize(2).setSystemThreadPoolSize(2).setStripedPoolSize(2).setQueryThreadPoolSize(1)
            .setRebalanceThreadPoolSize(1).setManagementThreadPoolSize(1).setPeerClassLoadingThreadPoolSize(1).setDataStreamerThreadPoolSize(1));
    }
}

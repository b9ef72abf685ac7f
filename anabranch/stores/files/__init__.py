"""Files of this machine, of Hadoop's file systems and of HDFS over HTTP."""

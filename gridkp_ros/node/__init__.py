"""ROS 2: the nodes, their messages, and what planners read a forecast with. Nothing else imports rclpy."""
